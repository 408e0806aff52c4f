"""TextDetector, as a checkpoint and exported, beside other text detectors: processor time, memory, hmean, agreement.

__main__       the command and its steps
processes      one process per detector, page by page in turn
own_process    a TextDetector in such a process
rival_process  another project's detector in such a process, under a Python of its own
scoring        the same evaluator for all
agreement      polygons and scores of TextDetector, predict.py and exported files beside each other
sharing        one TextDetector shared by threads
report         table and JSON document
"""
