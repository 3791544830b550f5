"""The pump, whatever is said in whichever pieces: byte for byte, both ways, and each goodbye behind its last byte."""

from __future__ import annotations

import asyncio

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eaa.aio.relay import Relayed, pump
from eaa.aio.stream import AttestedStream
from support.aio_world import read_all, run, streams

SIZES = st.lists(st.sampled_from([1, 2, 100, 16383, 16384, 16385, 70_000]), max_size=12)


def said(sizes: list[int], seed: int) -> list[bytes]:
    """Pieces of these sizes, no two alike."""
    return [bytes((seed + number + at) % 251 for at in range(size)) for number, size in enumerate(sizes)]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(forth=SIZES, back=SIZES, reads=st.sampled_from([1000, 16384]))
def test_every_chunking_arrives_byte_for_byte(forth: list[int], back: list[int], reads: int) -> None:
    questions, answers = said(forth, 3), said(back, 100)

    async def say(stream: AttestedStream, pieces: list[bytes]) -> None:
        for piece in pieces:
            await stream.write(piece)
        await stream.finish()

    async def hear(stream: AttestedStream) -> bytes:
        heard = await stream.read(reads)
        return heard + await read_all(stream) if heard else b""

    async def main() -> None:
        async with streams() as (client, upstream), streams() as (downstream, workload):
            pumping = asyncio.create_task(pump(upstream, downstream))
            _, _, at_workload, at_client = await asyncio.gather(
                say(client, questions), say(workload, answers), hear(workload), hear(client)
            )
            assert at_workload == b"".join(questions)
            assert at_client == b"".join(answers)
            client.abort()
            workload.abort()
            assert await pumping == Relayed(forth=sum(forth), back=sum(back), failure=None)

    run(main())
