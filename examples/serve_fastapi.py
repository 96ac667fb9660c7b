"""Serves a found subnet over HTTP; README.md says how to start it and ask it."""

import os

import fastapi

import noah_jax
from noah_jax.errors import UserError

predictor = noah_jax.Predictor(os.environ["SUBNET"])
predictor.compile()
app = fastapi.FastAPI(title="noah_jax")


async def body(request: fastapi.Request) -> bytes:
    return await request.body()


@app.get("/")
def about() -> dict:
    return {"class_names": predictor.class_names, "genome": predictor.facts["genome"]}


@app.post("/")  # not async, so that each request has a thread
def classify(image: bytes = fastapi.Depends(body), top: int = fastapi.Query(3, ge=1)) -> list[dict]:
    try:
        (classes,) = predictor.predict(image).labels(top)
    except UserError as error:
        raise fastapi.HTTPException(400, str(error)) from error
    return [{"label": name, "probability": chance} for name, chance in classes]
