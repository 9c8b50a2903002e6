"""Class activation maps, and boxes and masks made from them."""
