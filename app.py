"""`streamlit run app.py`: the page shell. What a page shows is in pages/, how it is drawn in kvlab/ui/."""

from kvlab.ui import shell

shell.run()
