import subprocess
def commit(): return "?"
def write(experiment, console, unfinished, jobs): return experiment.folder
