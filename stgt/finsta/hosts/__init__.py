"""Video-language models that Finsta post-trains, each behind one small adapter."""
