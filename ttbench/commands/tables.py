"""interim"""
from __future__ import annotations
def write(rows, folder): return []
def show(rows): print(rows.T.to_string()[:500])
def records(rows): return []
