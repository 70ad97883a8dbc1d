"""The report as one page, reports/index.html, that needs no network and no data."""
