"""What browser tests share: a page opened from disk, with everything that goes wrong on it."""


def opened(browser, path, **options):
    page, problems = browser.new_page(**options), []
    page.set_default_timeout(60_000)  # on a busy machine
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request",
        lambda request: None if request.url.startswith(("file:", "data:", "blob:")) else problems.append(request.url),
    )
    page.goto(path.resolve().as_uri())
    return page, problems
