"""Write a certificate as one HTML file without network."""

from kvlab.language import current, say, speaking
from kvlab.results.certificate import figures, words
from kvlab.results.certificate.data import Certificate
from kvlab.results.rendering import render


def certificate_html(certificate: Certificate, language: str | None = None) -> str:
    """Write the whole page in ``language``, else in the current one. Escapes all text of users."""
    teachers = " + ".join(teacher.name for teacher in certificate.teachers)
    with speaking(language or current()):
        title = say("Certificate: {teachers} → {student}", teachers=teachers, student=certificate.student.name)
        return render("certificate.html.j2", title=title, certificate=certificate, figures=figures, words=words)
