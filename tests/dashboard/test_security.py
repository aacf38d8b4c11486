"""What another site, another name, a form or a flood can do: nothing."""

import pytest
from made_up import make_store
from rooms import BASE, WRITES, put_label, server

from expander_sae.dashboard.security import HEADERS, MAX_BODY
from expander_sae.web.guard import MAX_QUERY, Access, is_loopback

LABEL = {"text": "x", "note": "", "star": False, "seen": 0}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "latents.db", views=("expander-d4, encoder",))


@pytest.fixture(scope="module")
def client(store):
    with server(store) as client:
        yield client


@pytest.mark.parametrize("path", ["/", "/main.js", "/api/store", "/api/latent/99999", "/nothing", "/api/latent/x"])
def test_every_answer_has_the_headers(client, path):
    answer = client.get(path)
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
    refused = client.get(path, headers={"host": "evil.example"})
    assert refused.headers["content-security-policy"] == HEADERS["content-security-policy"]


def test_the_policy_allows_no_inline_code_and_nothing_from_outside(client):
    rules = dict(rule.strip().split(" ", 1) for rule in HEADERS["content-security-policy"].split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == rules["frame-ancestors"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    page = client.get("/").text
    assert "<style" not in page
    assert " style=" not in page
    assert "http:" not in page.replace("http-equiv", "")
    assert page.count("<script") == page.count("<script defer src=")


def test_no_script_makes_markup_of_text(client):
    names = [part.split('"')[0] for part in client.get("/").text.split('src="')[1:]]
    for name in names:
        text = client.get(f"/{name}").text
        for way in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "http://",
            "https://",
        ):
            assert way not in text.replace('"http://www.w3.org/2000/svg"', ""), (name, way)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7341", "127.0.0.1.evil.example", "localhost.evil.example", ""]
)
def test_another_name_for_this_machine_is_refused(client, host):
    answer = client.get("/api/store", headers={"host": host})
    assert answer.status_code == 421
    assert "meta" not in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1:7341", "localhost:9000", "LOCALHOST", "[::1]:7341", "192.168.1.7:7341"])
def test_its_own_names_and_any_address_in_numbers_are_taken(client, host):
    assert client.get("/api/store", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:9999", "https://127.0.0.1:7341"])
def test_another_sites_page_is_refused(client, origin):
    assert client.get("/api/store", headers={"origin": origin}).status_code == 403
    wrote = client.put("/api/labels/1", json=LABEL, headers={**WRITES, "origin": origin})
    assert wrote.status_code == 403
    assert client.get("/api/latent/1").json()["label"]["version"] == 0


def test_a_browser_that_says_another_site_asked_is_refused(client):
    for site in ("cross-site", "same-site"):
        assert client.get("/api/store", headers={"sec-fetch-site": site}).status_code == 403
        assert client.get("/main.js", headers={"sec-fetch-site": site}).status_code == 403
    assert client.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200  # a link to it may be followed


def test_what_changes_something_says_its_origin_and_is_json(client):
    kind = {"content-type": "application/json"}
    assert client.put("/api/labels/1", json=LABEL, headers=kind).status_code == 403
    for other in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        answer = client.put("/api/labels/1", content=b"{}", headers={"origin": BASE, "content-type": other})
        assert answer.status_code == 415
    assert client.post("/api/labels/1", json=LABEL, headers=WRITES).status_code == 405
    assert client.delete("/api/labels/1", headers=WRITES).status_code == 405
    assert client.get("/api/latent/1").json()["label"]["version"] == 0


def test_sizes_are_bounded(client):
    long = client.put("/api/labels/1", content=b" " * (MAX_BODY + 1), headers=WRITES)
    assert long.status_code == 413
    pieces = (b" " * 10_000 for _ in range(20))
    assert client.put("/api/labels/1", content=pieces, headers=WRITES).status_code == 413  # no length was said
    lied = client.put("/api/labels/1", content=b"{}", headers={**WRITES, "content-length": "-5"})
    assert lied.status_code in (400, 413)
    assert client.get("/api/search", params={"q": "x" * (MAX_QUERY + 1)}).status_code == 414
    nested = b"[" * 50_000
    assert client.put("/api/labels/1", content=nested, headers=WRITES).status_code == 400
    assert client.put("/api/labels/1", content=b"\xff\xfe{", headers=WRITES).status_code == 400


def test_only_an_address_that_others_reach_asks_for_a_token():
    assert Access.to("127.0.0.1", 1).token is Access.to("localhost", 1).token is Access.to("::1", 1).token is None
    assert not is_loopback("0.0.0.0")
    first, second = Access.to("0.0.0.0", 7341), Access.to("lab.example", 7341)
    assert len(first.token) >= 32
    assert first.token != second.token
    assert "lab.example" in second.names
    assert first.token not in repr(first)


def test_with_a_token_nothing_is_said_without_it(store):
    access = Access.to("0.0.0.0", 7341)
    with server(store, access=access, follow_redirects=False) as client:
        for path in ("/", "/main.js", "/api/store", "/?token=wrong", "/?token=", f"/api/store?token={access.token}"):
            answer = client.get(path)
            assert answer.status_code == 401
            assert "script" not in answer.text
        wrong = put_label(client, 1, LABEL, cookies=None)
        assert wrong.status_code == 401
        entered = client.get(f"/?token={access.token}&view=1")
        assert entered.status_code == 303
        assert entered.headers["location"] == "/?view=1"  # the token leaves the address
        said = entered.headers["set-cookie"].lower()
        assert "httponly" in said
        assert "samesite=strict" in said
        assert client.get("/api/store").status_code == 200  # the client kept the cookie
        assert put_label(client, 1, LABEL).status_code == 200
        client.cookies.clear()
        client.cookies.set(access.cookie, access.token[:-1] + "!")
        assert client.get("/api/store").status_code == 401
