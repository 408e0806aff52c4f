"""Annotation formats. Every reader returns a list of `AnnotatedImage`.

Files in reading order:

read       chooses the reader
annotated  the result of every reader
upstage    reads and writes the native JSON
icdar      reads a folder of ICDAR text files
"""
