"""The DBNet loss.

Files in reading order:

config        the section `loss` of the configuration
balanced_bce  cross-entropy of the shrink map, with hard negatives
dice          dice loss of the binary map
db_loss       the weighted sum over the three maps
"""
