"""Clients of the platform's services: one base with time-outs, retries and typed answers, and a class a service.

    from resources.services import ServiceError, get_service_client

    with get_service_client("inference") as client:
        client.post_json("/v1/chat/completions", json={...}, idempotent=True)

Addresses come from hosts.json; `<SERVICE>_TIMEOUT_S`, `<SERVICE>_MAX_RETRIES` and `<SERVICE>_API_KEY` from the
environment; proxies of the environment are not used. Every failure is a `ServiceError`.
"""

from gpu_assets.errors import ServiceAuthError, ServiceDecodeError, ServiceError, ServiceHttpError, ServiceUnavailable
from resources.services.aio import AsyncServiceClient
from resources.services.client import ServiceClient, get_service_client
from resources.services.completions import ChatAnswer, ChatPiece, Message
from resources.services.inference import (
    OWNER,
    InferenceClient,
    ModelInfo,
    Pool,
    PoolEntry,
    Reloaded,
    inference_client,
)
from resources.services.oracle import OracleClient, Pulse, oracle_client
from resources.services.prediction import PredictionClient, prediction_client

__all__ = [
    "OWNER",
    "AsyncServiceClient",
    "ChatAnswer",
    "ChatPiece",
    "InferenceClient",
    "Message",
    "ModelInfo",
    "OracleClient",
    "Pool",
    "PoolEntry",
    "PredictionClient",
    "Pulse",
    "Reloaded",
    "ServiceAuthError",
    "ServiceClient",
    "ServiceDecodeError",
    "ServiceError",
    "ServiceHttpError",
    "ServiceUnavailable",
    "get_service_client",
    "inference_client",
    "oracle_client",
    "prediction_client",
]
