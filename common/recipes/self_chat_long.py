"""Step: unpacks the corpus `self-chat-long`: every request about every topic, those of `self-chat` first."""

from common.core.step import run_step
from common.recipes.self_chat import SelfChatFiles, self_chat


def self_chat_long(files: SelfChatFiles) -> None:
    """As `self_chat`."""
    self_chat(files, "self-chat-long")


if __name__ == "__main__":
    run_step(self_chat_long)
