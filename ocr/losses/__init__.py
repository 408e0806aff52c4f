"""The DBNet loss.

Files in reading order:

config        the section `loss` of the configuration
balanced_bce  cross-entropy of the shrink map, with hard negatives
focal         focal loss of the shrink map, the other choice
dice          dice loss of the binary map, and of the shrink map beside the focal loss
db_loss       the weighted sum over the three maps
"""
