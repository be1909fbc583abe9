"""`streamlit run app.py`: the server. The page shell is kvlab/web/script.py, the pages are in pages/.

It is an ASGI app rather than a script, so that the worker starts and ends with the server and no page is served
without its shell. Every request passes kvlab/web/access/guard.py first.
"""

import asyncio
from contextlib import asynccontextmanager, suppress
from importlib import import_module

from starlette.middleware import Middleware
from streamlit.starlette import App

from kvlab import PACKAGE
from kvlab.errors import KvlabError
from kvlab.host import privacy
from kvlab.web import server
from kvlab.web.access.guard import Guard
from kvlab.web.server import worker

privacy.keep()


@asynccontextmanager
async def lifespan(app: App):
    print(server.startup_text(), flush=True)
    with suppress(KvlabError):  # the pages show the error and try again
        worker().start()  # does not wait for the worker's imports
    loop = asyncio.get_running_loop()
    recovery = loop.run_in_executor(None, server.recover_queue)
    # The first visitor would wait a second for it.
    imported = loop.run_in_executor(None, import_module, "kvlab.web.overview")
    yield
    await recovery
    await imported
    worker().stop()


guard = Middleware(
    Guard, keys=server.entrance(), names=server.names(), proxies=server.proxies(), scripts=server.scripts()
)
app = App(PACKAGE / "web" / "script.py", lifespan=lifespan, middleware=[guard])
