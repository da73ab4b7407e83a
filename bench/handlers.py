"""The app of the handler workers that are measured."""

from consumers import App, Run

app = App()


@app.handler()
def stand(run: Run) -> None:
    """Do nothing for so many seconds, or until it is asked to stop."""
    run.cancelled.wait(run.parameters["seconds"])
