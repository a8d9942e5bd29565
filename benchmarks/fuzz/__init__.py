"""Every reader of jaxmem under damaged and hostile input."""
