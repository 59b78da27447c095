"""`twinhull compare`: the argument between containers and VMs, settled by measurement on the user's own machine.

    cli ──▶ compare ──▶ client ──▶ daemon

Pure: `model` (metrics, samples), `statistics`, `plan` (which turn comes when), `verdicts` (what follows and what does not).
Acting: `bench` (runs the plan, keeps the samples), `subjects` (the hulls and peers measured), `measures/` (one module per group).
Telling: `report/` (HTML, JSON, CSV, Markdown, PNG from the same facts).
"""
