"""One HTTP request from Envoy's side: ext-proc messages in, answers and questions out."""

from extproc.exchange.action import Action, Withdraw
from extproc.exchange.exchange import Exchange, Waiting
from extproc.exchange.settings import BodyMode, ExchangeSettings

__all__ = ["Action", "BodyMode", "Exchange", "ExchangeSettings", "Waiting", "Withdraw"]
