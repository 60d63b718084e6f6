"""Networks broken on purpose: does the report name the cause, and does its patch cure it?"""
