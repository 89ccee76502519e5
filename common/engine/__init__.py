"""What runs the workflow: launcher, rules, prefork server, events, status, scaffold."""
