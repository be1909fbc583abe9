"""The pages for requests without the token. They contain nothing from the request."""

TITLE = "kvlab asks for its access token"
TITLE_ZH = "kvlab 需要访问令牌"
WHERE = "It is in the address that the server printed when it started, after “token=”."
WHERE_ZH = "令牌在服务器启动时打印的地址中，位于 token= 之后。"
WRONG = "That was not the token. 令牌不正确。"
MANY = (
    "That was not the token, and too many wrong ones are being tried. The right one opens kvlab at any time. "
    "令牌不正确，且错误尝试过多；正确的令牌随时可用。"
)
HOST = (
    "kvlab does not answer to this name. Open it by IP address or as localhost, or name the host in KVLAB_HOSTS "
    "when starting the server."
)
ORIGIN = "A page of another site asked. kvlab answers only its own pages."
OPEN = "kvlab listens beyond this machine without an access token and answers nobody. Start it with KVLAB_TOKEN=new."


def login(refusal: str = "") -> str:
    """Return a form that posts ``token`` to the address it was opened at."""
    alert = f'<p role="alert"><strong>{refusal}</strong></p>' if refusal else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>kvlab</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 34rem; margin: 15vh auto; padding: 0 1rem;
  color: #1f2328; background: #fff; }}
h1 {{ font-size: 1.3rem; }} input, button {{ font: inherit; padding: .4rem .7rem; }}
input {{ width: 100%; box-sizing: border-box; margin: .3rem 0 .8rem; }}
button {{ color: #fff; background: #0b6e99; border: 0; border-radius: 4px; }}
</style></head><body><main>
<h1>{TITLE}<br><span lang="zh">{TITLE_ZH}</span></h1>
<p>{WHERE}<br><span lang="zh">{WHERE_ZH}</span></p>{alert}
<form method="post"><label>Token 令牌
<input type="password" name="token" autocomplete="current-password" required autofocus></label>
<button>Open 打开</button></form>
</main></body></html>"""
