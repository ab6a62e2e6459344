"""Files and the Hub: folders in timm's Hub format, files that appear whole, names on the Hub and what it answers."""
