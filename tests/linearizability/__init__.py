"""Judges histories of concurrent operations on registers: are they linearizable?"""
