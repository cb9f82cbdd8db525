"""What is reserved for evaluation, whoever validates: the platform's gates and the command line."""

from serving.skills import binary
from validators import Reserved

RESERVED = Reserved(binary.is_held_out, binary.asks_held_out, marks=tuple(binary.DIGITS))
