"""World to Envoy's configuration: pure, and no more than needed each time."""

from xds.translate.features import ALL, Features, features_of
from xds.translate.settings import (
    ExtProcSettings,
    PickerTls,
    Pipe,
    SocketAddress,
    TranslateSettings,
    parse_target,
)
from xds.translate.translator import DEFAULT_GATEWAY, Translator, translate

__all__ = [
    "ALL",
    "DEFAULT_GATEWAY",
    "ExtProcSettings",
    "Features",
    "PickerTls",
    "Pipe",
    "SocketAddress",
    "TranslateSettings",
    "Translator",
    "features_of",
    "parse_target",
    "translate",
]
