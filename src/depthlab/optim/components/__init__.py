"""The components of this room, one file each; the registry imports all of them."""
