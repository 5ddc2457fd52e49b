*

user	refuse meb