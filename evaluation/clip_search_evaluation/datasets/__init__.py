"""What is evaluated on: pictures with captions, with classes, or with both; knows nothing of servers and models.

dataset.py         the data as arrays, whatever file they came from
reading.py         which reader a file or folder needs
caption_tables.py  CSV and JSONL: a picture and a caption, a class, or both in a row
karpathy.py        Karpathy's JSON files of COCO, Flickr8k and Flickr30k
class_folders.py   folders of pictures named by class
"""
