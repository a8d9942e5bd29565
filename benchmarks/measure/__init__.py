"""What programs really take, beside what was predicted."""
