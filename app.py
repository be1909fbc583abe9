"""`streamlit run app.py`: the server. The page shell is kvlab/ui/script.py, the pages are in pages/.

An ASGI app rather than a script: the worker starts and ends with the server, and no page file in pages/ is ever
served without its shell.
"""

import asyncio
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from streamlit.starlette import App

from kvlab.errors import KvlabError
from kvlab.ui import standing_queue
from kvlab.ui.warm import worker


@asynccontextmanager
async def lifespan(app: App):
    with suppress(KvlabError):  # the pages say it, and try again
        worker().start()  # does not wait for the worker's imports
    taken_up = asyncio.get_running_loop().run_in_executor(None, standing_queue.take_up)
    yield
    await taken_up
    worker().stop()


app = App(Path(__file__).parent / "kvlab" / "ui" / "script.py", lifespan=lifespan)
