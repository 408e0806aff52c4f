"""The commands: each parses its arguments, checks the configuration and calls the function that does the work.

dali_dbnet     the installed program `dali-dbnet COMMAND key=value ...`
train, evaluate, predict, export, prepare_data, inspect_data
               one command each; scripts/ calls the same ones
"""
