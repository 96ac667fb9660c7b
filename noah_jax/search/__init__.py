"""The supernet, the search in it, and the methods that find a genome without a supernet."""
