"""Annotation formats: one module and one reader each, behind one interface. A reader yields one `AnnotatedImage` after the other.

Files in reading order:

interface     AnnotationFormat: name, title, examine and read of one format
annotated     AnnotatedImage: the result of every reader
look          Look: the beginning of an annotation file or folder, for `examine`
image_folder  ImageFolder: finds the image that an annotation names, and its size
text          encodings of text files
read          the list of formats; chooses the reader by name or by looking
upstage       the native JSON, read and written
  json_scanner  scans it in compiled code
text_lines, text_folder, rectangles
              what the next formats share: one text file for each image
icdar         ICDAR 2013 and 2015, MLT, SROIE, MhLiao/DB
totaltext, ctw1500, yolo
paddleocr     one text file with a line for each image
dont_care     texts and labels of don't-care regions
json_text     reads a JSON file of any length value by value
json_values   what JSON formats share: numbers, polygons, rectangles
linked_words  words of formats that link images and annotations by ids
mmocr, doctr  one JSON file, image by image
coco, coco_text
labelme       one JSON file for each image
label_studio  JSON and JSON-MIN exports
safe_xml      reads XML element by element, without entities
cvat          CVAT for images: one XML file
xml_pages     what the next three share: one XML file for each image
page_xml, alto, ctw1500_xml
matlab        reads MAT-files
totaltext_mat Total-Text's MAT-files
writers       writes PaddleOCR, MMOCR, docTR and COCO

How to add a format:

1. Write a module with two functions and one constant: `NAME = AnnotationFormat("name", "Title", "file", examine, read)`. Add the
   constant to `FORMATS` in `read`, and `configs/data/name.yaml` with the usual layout of such a data set, which sets
   `annotation_format: name` for each split.
2. `examine(look)` judges from `look` alone and opens nothing itself. CERTAIN: a mark that no other format has. LIKELY: the form of
   this format, and of no other in the list. POSSIBLE: readable, but another format may be meant. NO_FIT: another format. Two
   formats that fit one path equally well stop the run, so give the more general one the lower confidence. `Fit.reason` names what
   was seen, in a few words.
3. `read(path, images)` is a generator. It raises `InputError` only when the file as a whole is unreadable, with the file, what was
   found and what was expected; everything else is a `FormatProblem` of its image. No other exception may leave it, whatever
   the file holds (nesting, encodings, NaN, integers of a thousand digits). It keeps nothing of an image after it was yielded,
   unless the format forces it.
4. `images.locate(name)`, or `images.belonging_to(stem)` of an annotation file, gives the file name for `AnnotatedImage.filename`.
   Never trust a name in another way. `AnnotatedImage.of` takes words and problems as they come.
5. The module's docstring shows the format in a few lines and names the source of its facts.
"""
