"""A reconstruction of Finsta (arXiv 2406.19255): scene graphs of texts and videos that align a video-language model.

The paper's authors published no code. What is built here follows the paper's text, and its equations are our own.
"""
