"""netpress: which way of making my network smaller should I use, and what does it cost?"""
