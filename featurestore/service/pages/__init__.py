"""What people see of a service in a browser: rendered here, readable without a script.

`sets_view`, `runs_view` and `comparisons` say what is shown, the templates how, the routes where.
A page stands on ``base.html.j2``; errors of its routes are pages (`rendering.PageRoute`).
"""
