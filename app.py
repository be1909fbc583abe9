"""`streamlit run app.py`: the server. The page shell is kvlab/web/script.py, the pages are in pages/.

An ASGI app rather than a script: the worker starts and ends with the server, and no page file in pages/ is ever
served without its shell. Every request passes kvlab/web/access/guard.py first.
"""

import asyncio
from contextlib import asynccontextmanager, suppress

from starlette.middleware import Middleware
from streamlit.starlette import App

from kvlab import PACKAGE
from kvlab.errors import KvlabError
from kvlab.web import server
from kvlab.web.access.guard import Guard
from kvlab.web.server import worker


@asynccontextmanager
async def lifespan(app: App):
    print(server.said(), flush=True)
    with suppress(KvlabError):  # the pages say it, and try again
        worker().start()  # does not wait for the worker's imports
    taken_up = asyncio.get_running_loop().run_in_executor(None, server.take_up)
    yield
    await taken_up
    worker().stop()


guard = Middleware(Guard, keys=server.entrance(), names=server.names(), proxies=server.proxies())
app = App(PACKAGE / "web" / "script.py", lifespan=lifespan, middleware=[guard])
