"""Tasks on the cluster: how many fit on its nodes, lanes that retry items after deaths, and single tasks."""
