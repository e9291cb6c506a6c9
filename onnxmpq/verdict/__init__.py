"""What is found out about a written file: is it what it should be, how good, how fast?"""
