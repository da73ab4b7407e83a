"""Handlers of a small shop: `consumers run --pool shop --type handler --app app:app` runs them."""

import asyncio

from consumers import App, Retry, Run

app = App()


@app.handler()
def add_up(run: Run) -> dict[str, object]:
    """For runs that name no handler. What is returned is kept with the run, as JSON."""
    prices = run.parameters.get("prices", [])
    app.log.info("adding-up", prices=len(prices))  # goes to the worker's log, with the run's id
    return {"total": sum(prices)}


@app.handler("send reminders")
async def send_reminders(run: Run) -> dict[str, object]:
    """A coroutine; all coroutines of a worker share one event loop."""
    sent = 0
    for _customer in range(run.parameters["customers"]):
        if run.cancelled:  # cancelled, too late, or the worker ends: `run.cancelled.reason`
            break
        await asyncio.sleep(0.01)
        sent += 1
    return {"sent": sent}


@app.handler("fetch rates")
def fetch_rates(run: Run) -> str:
    """The shop across the street opens late: it is asked again, by whichever worker is free."""
    if run.run_count < run.parameters["opens_at"]:
        raise Retry(0.5, "closed")
    return f"rates after {run.run_count} visits"
