"""`celery -A worker flower`: Flower behind a password on every page, and read only.

Read in flower 2.2.0. Tried first: its options `address`, `basic_auth`, `debug` and `read_only`, which are set here
through `tornado.options`. None demands a password, and none adds a page; so the class that Flower's command creates
(`flower.command.Flower`) is replaced by ours. The command stays Flower's: Celery chooses it before it loads the app.
"""

from flower import command as flowers
from flower.app import Flower, rewrite_handler
from tornado.options import options

from config.refusal import Refusal, ends_the_process
from config.settings import Settings
from worker.patches.flower_pages import PAGES

INSIDE = "127.0.0.1"


class Site(Flower):
    """Flower with our pages ahead of its own at the same address; it refuses to start without a password."""

    @ends_the_process()
    def __init__(self, **given: object) -> None:
        options.basic_auth = _credentials()
        super().__init__(**given)
        pages = [rewrite_handler(page, options.url_prefix) if options.url_prefix else page for page in PAGES]
        self.add_handlers(".*", pages)

    @ends_the_process()
    def start_http_server(self) -> int | None:
        """Flower's; returns the port, None for a Unix socket."""
        try:
            port: int | None = super().start_http_server()
        except OSError as error:
            raise Refusal(f"Flower can't listen at {options.address}:{options.port}: {error.strerror}") from None
        return port


def _credentials() -> list[str]:
    """The `user:password` pairs that may log in. Raises Refusal."""
    pairs = [each.strip() for each in options.basic_auth if each.strip()]
    if not pairs:
        raise Refusal("BILLING_FLOWER_BASIC_AUTH is not set: Flower starts only with a password, as user:password")
    for number, pair in enumerate(pairs, 1):
        user, _, password = pair.partition(":")
        if not user or not password or not pair.isascii():
            raise Refusal(
                f"BILLING_FLOWER_BASIC_AUTH: its entry {number} of {len(pairs)} must be user:password, both in ASCII "
                "and neither empty, with commas between entries"
            )
    return pairs


def _overrule() -> None:
    """Called after the options were parsed from environment, file and command line."""
    # Flower's own default is every address of this host.
    options.address = options.address or INSIDE
    # Otherwise its pages can shut workers down and post jobs.
    options.read_only = True
    # Debug mode shows tracebacks on its pages.
    options.debug = False


def register(settings: Settings) -> None:
    """Have Flower's command create `Site`; Flower's own option and variable for the password win over our setting."""
    options.basic_auth = settings.flower_basic_auth.get_secret_value().split(",")
    options.add_parse_callback(_overrule)
    flowers.Flower = Site
