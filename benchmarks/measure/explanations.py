"""Why the largest errors are what they are: (device, network, mode) → what was found when it was looked into."""

EXPLANATIONS: dict[tuple[str, str, str], str] = {}
