"""`streamlit run app.py`: the server. The page shell is kvlab/ui/script.py, the pages are in pages/.

An ASGI app rather than a script: the worker starts and ends with the server, and no page file in pages/ is ever
served without its shell. Every request passes kvlab/access/guard.py first.
"""

import asyncio
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from starlette.middleware import Middleware
from streamlit.starlette import App

from kvlab.access.guard import Guard
from kvlab.errors import KvlabError
from kvlab.ui import entrance, standing_queue
from kvlab.ui.warm import worker


@asynccontextmanager
async def lifespan(app: App):
    print(entrance.said(), flush=True)
    with suppress(KvlabError):  # the pages say it, and try again
        worker().start()  # does not wait for the worker's imports
    taken_up = asyncio.get_running_loop().run_in_executor(None, standing_queue.take_up)
    yield
    await taken_up
    worker().stop()


guard = Middleware(Guard, keys=entrance.entrance(), names=entrance.names(), proxies=entrance.proxies())
app = App(Path(__file__).parent / "kvlab" / "ui" / "script.py", lifespan=lifespan, middleware=[guard])
