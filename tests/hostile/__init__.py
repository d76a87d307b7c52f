"""What Comity does with files from someone who wants to do harm."""
