"""The images: read once into memory, split by a fixed seed, cut into batches on the device that uses them."""
