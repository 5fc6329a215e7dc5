"""The filesystem broker of the embedded default: kombu's transport, but no reader sees a half-written message.

Read in kombu 5.7.0, whose `Channel._put` writes directly into the file that readers look for (`*.QUEUE.msg`). Tried
first: the transport options (folders, `store_processed`). None changes how a message is written.
"""

import os
import uuid
from time import monotonic

from kombu.exceptions import ChannelError
from kombu.transport import filesystem
from kombu.utils.encoding import str_to_bytes
from kombu.utils.json import dumps

FOLDERS = ("data_folder_in", "data_folder_out", "control_folder")


class Channel(filesystem.Channel):
    """Writes a message under a hidden name, then renames it: kombu's own lets a reader take a half-written file.

    Creates its folders when it is created itself, at the first post or consume.
    """

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)
        try:
            for name in FOLDERS:
                os.makedirs(self.transport_options[name], exist_ok=True)
        except OSError as error:
            raise ChannelError(f"the folder {self.transport_options[name]} can't be made: {error}") from error

    def _put(self, queue: str, payload: object, **_: object) -> None:
        name = f"{round(monotonic() * 1000):015d}_{uuid.uuid4()}"
        hidden = os.path.join(self.data_folder_out, f".{name}")
        try:
            with open(hidden, "wb") as file:
                file.write(str_to_bytes(dumps(payload)))
            os.replace(hidden, os.path.join(self.data_folder_out, f"{name}.{queue}.msg"))
        except OSError as error:
            raise ChannelError(f"can't write a message to {self.data_folder_out}") from error


class Transport(filesystem.Transport):
    """kombu's filesystem transport with the channel above."""

    Channel = Channel
