"""Files and the Hub: folders in timm's Hub format, lists of names, files that appear whole, what the Hub answers."""
