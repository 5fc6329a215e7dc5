"""A door as one writes it first: FastAPI, one sync endpoint, the ORM way inside.

`uvicorn benchmarks.naive_door:app`, with the database's URL in `NAIVE_DATABASE_URL`.
"""

import os
from http import HTTPStatus

from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy import create_engine

from benchmarks import baselines

THREADS = 40
"""In which FastAPI runs sync endpoints: a connection for each, for fewer would wait for one another."""

app = FastAPI()
_engine = create_engine(os.environ["NAIVE_DATABASE_URL"], pool_size=THREADS, max_overflow=0, pool_timeout=60)


class Hold(BaseModel):
    """What is asked for."""

    request_id: str
    user_id: int
    token_id: int
    quota: int
    preference: str


class Held(BaseModel):
    """What is answered."""

    request_id: str
    user_id: int
    quota: int
    state: str


@app.post("/v1/sessions", status_code=HTTPStatus.CREATED)
def hold(asked: Hold) -> Held:
    """Hold."""
    baselines.orm_hold(_engine, asked.request_id, asked.user_id, asked.quota)
    return Held(request_id=asked.request_id, user_id=asked.user_id, quota=asked.quota, state="preconsumed")


@app.get("/readyz")
def ready() -> str:
    """Whether requests may come."""
    return "ready"
