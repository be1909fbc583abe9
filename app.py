"""`streamlit run app.py`: the server. The page shell is kvlab/web/script.py, the pages are in pages/.

It is an ASGI app rather than a script, so that the worker starts and ends with the server and no page is served
without its shell. Every request passes kvlab/web/access/guard.py first.
"""

import asyncio
from contextlib import asynccontextmanager, suppress

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
    recovery = asyncio.get_running_loop().run_in_executor(None, server.recover_queue)
    yield
    await recovery
    worker().stop()


guard = Middleware(
    Guard, keys=server.entrance(), names=server.names(), proxies=server.proxies(), scripts=server.scripts()
)
app = App(PACKAGE / "web" / "script.py", lifespan=lifespan, middleware=[guard])
