"""How much a trained network loses where one layer alone is made smaller."""
