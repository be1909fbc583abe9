"""Certificates: may a teacher's cache be handed over to a student?"""
