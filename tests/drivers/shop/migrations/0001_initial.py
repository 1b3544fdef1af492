import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel("Product", [
            ("id", models.BigAutoField(primary_key=True, serialize=False)),
            ("name", models.CharField(max_length=40, unique=True)),
            ("price", models.DecimalField(max_digits=8, decimal_places=2)),
            ("made", models.DateTimeField()),
            ("tags", models.JSONField(default=list)),
        ]),
        migrations.CreateModel("Order", [
            ("id", models.BigAutoField(primary_key=True, serialize=False)),
            ("quantity", models.IntegerField()),
            ("note", models.TextField(null=True)),
            ("product", models.ForeignKey("shop.Product", on_delete=django.db.models.deletion.CASCADE, related_name="orders")),
        ]),
    ]
