"""`celery -A worker flower`: Flower behind a password on every page, read only, with queue lengths on every broker."""

import asyncio
import atexit
import signal
from collections.abc import Sequence

import click
from celery import Celery
from flower import command as flowers
from flower.api.tasks import GetQueueLengths
from flower.app import Flower, rewrite_handler
from flower.urls import settings as page_settings
from flower.views.broker import BrokerView
from flower.views.monitor import Metrics
from tornado.options import options
from tornado.web import authenticated

from config.settings import Settings
from worker.startup import Refusal

INSIDE = "127.0.0.1"
BROKER_TIMEOUT_S = 3.0
"""How long one look at the queues may take to connect."""


def lengths(app: Celery, names: Sequence[str]) -> list[dict[str, object]]:
    """Messages that wait in each queue, asked of the broker itself, with the app's own password and TLS.

    What workers have taken and not yet acknowledged is not counted: no broker tells that without a management plugin.
    """
    found: list[dict[str, object]] = []
    with app.connection_for_read(connect_timeout=BROKER_TIMEOUT_S) as connection:
        for name in names:
            # A channel each: RabbitMQ closes the one on which it was asked for a queue that is not there.
            channel = connection.channel()
            try:
                answer = channel.queue_declare(queue=name, passive=True)
                waiting, consumers = answer.message_count, answer.consumer_count
            except connection.channel_errors:
                # Nothing was ever posted; to Redis an empty queue is none at all.
                waiting, consumers = 0, 0
            finally:
                channel.close()
            row: dict[str, object] = {"name": name, "messages": waiting, "messages_ready": waiting}
            # Only RabbitMQ knows.
            found.append(row | ({"consumers": consumers} if connection.transport.driver_type == "amqp" else {}))
    return found


class Queues:
    """Stands in for Flower's own look at the broker, which needs RabbitMQ's management plugin and knows no TLS."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    async def queues(self, names: Sequence[str]) -> list[dict[str, object]]:
        """The queues with their lengths; off the event loop, for it waits for the broker."""
        return await asyncio.get_running_loop().run_in_executor(None, lengths, self._app, list(names))


class BrokerPage(BrokerView):
    """Flower's broker page."""

    def get_broker(self) -> Queues:
        """Whom the page asks."""
        return Queues(self.capp)


class QueueLengths(GetQueueLengths):
    """Flower's `/api/queues/length`."""

    def get_broker(self) -> Queues:
        """Whom the page asks."""
        return Queues(self.capp)


class MetricsPage(Metrics):
    """Flower's `/metrics`, which Flower leaves open whatever password is set."""

    @authenticated
    async def get(self) -> None:
        """Answer those who have the password."""
        await super().get()


PAGES = (("/broker", BrokerPage), ("/api/queues/length", QueueLengths), ("/metrics", MetricsPage))


class Site(Flower):
    """Flower with our pages before its own of the same address."""

    def __init__(self, app: Celery) -> None:
        super().__init__(capp=app, options=options, **page_settings)
        pages = [rewrite_handler(page, options.url_prefix) if options.url_prefix else page for page in PAGES]
        self.add_handlers(".*", pages)


def _credentials(settings: Settings) -> list[str]:
    """Who may come in; the setting stands behind Flower's own option and variable. Raises Refusal."""
    given = options.basic_auth or settings.flower_basic_auth.get_secret_value().split(",")
    pairs = [each.strip() for each in given if each.strip()]
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


def register(settings: Settings) -> None:
    """Have Flower's command do what is done here. Celery chooses the command before it loads the app, so it stays."""

    @click.pass_context
    def run(context: click.Context, tornado_argv: tuple[str, ...]) -> None:
        flowers.warn_about_celery_args_used_in_flower_command(context, tornado_argv)
        flowers.apply_env_options()
        flowers.apply_options("flower", tornado_argv)
        options.basic_auth = _credentials(settings)
        # Flower's own default is every address of this host.
        options.address = options.address or INSIDE
        # It would shut workers down, and post jobs, for whoever has the password.
        options.read_only = True
        # Tracebacks on its pages.
        options.debug = False
        flowers.extract_settings()
        flowers.setup_logging()
        _serve(Site(context.obj.app))

    flowers.flower.callback = run


def _serve(site: Site) -> None:
    atexit.register(site.stop)
    signal.signal(signal.SIGTERM, flowers.sigterm_handler)
    try:
        port = site.start_http_server()
    except OSError as error:
        raise Refusal(f"Flower can't listen at {options.address}:{options.port}: {error.strerror}") from None
    flowers.print_banner(site.capp, "ssl_options" in page_settings, port)
    try:
        site.start()
    except (KeyboardInterrupt, SystemExit):
        # As Flower ends: Ctrl-C and SIGTERM are no errors.
        return
